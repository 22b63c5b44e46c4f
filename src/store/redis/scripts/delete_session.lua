-- Deletes a session in either form.
--
-- KEYS: the session, the list in which the version before kept it.
-- Replies: how many of the two there were.

return redis.call('DEL', KEYS[1], KEYS[2])
