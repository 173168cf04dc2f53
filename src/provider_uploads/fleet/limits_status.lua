-- After limits_functions.lua: returns {the rate a minute, the factor in use, seconds on hold}.
return {tostring(rate), tostring(factor), tostring(permits.on_hold - now)}
