-- Appends exposures to one stream of the log; one command, as the client's work is by command.
--
-- KEYS[1]  the stream   ARGV[1]  entries kept in it   ARGV[2] and on: entries

for at = 2, #ARGV do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'exposure', ARGV[at])
end
