-- After storage_functions.lua: returns the bytes that are reserved, ours and others'.
return storage_at(KEYS[1], KEYS[2]).held()
