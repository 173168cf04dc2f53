-- After storage_functions.lua: returns the bytes that are reserved, ours and others'.
return held()
