-- After storage_functions.lua: releases an upload's reservation. Twice is once.
--
-- ARGV[1]  the ticket
storage_at(KEYS[1], KEYS[2]).drop(ARGV[1])
