-- After upload_functions.lua: changes an upload's row, if it is in one of the stages it may be
-- changed in.
--
-- KEYS[1]  the row
-- KEYS[2]  the open uploads
-- ARGV[1]  the change as JSON
-- Returns  the time on Redis's clock, or nil when the row is in no stage of "from".
return write(KEYS[1], KEYS[2], ARGV[1])
