-- After limits_functions.lua: returns {the rate a minute, the factor in use, seconds on hold}.
local permits = permits_of(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
return {tostring(permits.rate), tostring(permits.factor), tostring(permits.on_hold - permits.now)}
