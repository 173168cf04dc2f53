-- After storage_functions.lua: releases an upload's reservation. Twice is once.
--
-- ARGV[1]  the ticket
drop(ARGV[1])
