"""The scripts of the shared cache level: each is one step that no other client can get into the middle of.

A place holds 20 bytes of *version* (layout, kind, a random name), then what the kind has beyond it: a value (`V`) has much, see
`envelope`; a vacancy (`L`, left by a look that found nothing) and a tombstone (`T`, left by a drop) have nothing. A token is 8 random bytes.
"""

from __future__ import annotations

from paintkit.redis.wire import Script

__all__ = ["DROP", "FILL", "GREET", "LOOK"]

# KEYS: the place, the tokens of its marks.
# ARGV: the version that the caller has a copy of, or ''; a new vacancy; for how long it stands (ms); a new token; for how long
# (ms); the largest value that may travel (bytes).
# Returns {value, ms left}; for the caller's own copy {its front, ms left}; where no value is {version, tokens}; and where one
# is that we do not take {version, tokens, size}, in which a size of -1 stands for what is none of ours.
LOOK = Script(r"""
local marks = #KEYS - 1
local tokens = redis.call('MGET', unpack(KEYS, 2))
for i = 1, marks do
    if not tokens[i] or #tokens[i] ~= 8 then
        tokens[i] = ARGV[4]
        redis.call('SET', KEYS[i + 1], ARGV[4], 'PX', ARGV[5])
    end
end
tokens = table.concat(tokens)
local front = redis.pcall('GETRANGE', KEYS[1], 0, 68 + 8 * marks)
local kind = type(front) == 'string' and #front >= 20 and string.match(front, '^PK\1([VLT])')
if not kind then
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
    return front == '' and {ARGV[2], tokens} or {ARGV[2], tokens, -1}
end
local version = string.sub(front, 1, 20)
if kind ~= 'V' then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    return {version, tokens}
end
if #front < 69 + 8 * marks then
    return {version, tokens, -1}
end
if string.byte(front, 69) ~= marks or string.sub(front, 70) ~= tokens then
    return {version, tokens}
end
if version == ARGV[1] then
    return {front, redis.call('PTTL', KEYS[1])}
end
local size = redis.call('STRLEN', KEYS[1])
if size > tonumber(ARGV[6]) then
    return {version, tokens, size}
end
return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}
""")

# Tells the others: numbered, so that who misses one notices.
_TELL = """
local function tell(stream, number, mode, sender, changes, most)
    local n = redis.call('INCR', number)
    if mode == 'stream' then
        redis.call('XADD', stream, 'MAXLEN', '~', most, '*', 'n', n, 's', sender, 'c', changes)
    else
        redis.call('PUBLISH', stream, n .. ' ' .. sender .. ' ' .. changes)
    end
end
"""

# KEYS: the place, the stream, its number, the tokens. ARGV: the version seen; the tokens seen; the value; for how long it
# stands (ms); for how long tokens do (ms); what to tell or ''; and how: mode, sender, length of the stream.
# Returns 1, or 0 if something has changed since it was seen. Tokens outlive every value that was filled under them.
FILL = Script(
    _TELL
    + """
local version = redis.pcall('GETRANGE', KEYS[1], 0, 19)
if version ~= ARGV[1] then
    return 0
end
local tokens = redis.call('MGET', unpack(KEYS, 4))
for i = 1, #tokens do
    tokens[i] = tokens[i] or ''
end
if table.concat(tokens) ~= ARGV[2] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
for i = 4, #KEYS do
    redis.call('PEXPIRE', KEYS[i], ARGV[5])
end
if ARGV[6] ~= '' then
    tell(KEYS[2], KEYS[3], ARGV[7], ARGV[8], ARGV[6], ARGV[9])
end
return 1
"""
)

# KEYS: the stream, its number, the places, the tokens. ARGV: how many places; a tombstone; for how long it stands (ms); a new
# token; for how long (ms); what to tell and how: changes, mode, sender, length of the stream.
# A server whose memory is full allows the PEXPIRE, and a script that has begun to write it lets go on.
DROP = Script(
    _TELL
    + """
local places = tonumber(ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
for i = 3, #KEYS do
    if i - 2 <= places then
        redis.call('SET', KEYS[i], ARGV[2], 'PX', ARGV[3])
    else
        redis.call('SET', KEYS[i], ARGV[4], 'PX', ARGV[5])
    end
end
tell(KEYS[1], KEYS[2], ARGV[7], ARGV[8], ARGV[6], ARGV[9])
return 1
"""
)

# KEYS: the server's identity as noted, the token of everything, the number, the stream. ARGV: a new token, for how long it
# stands (ms).
# A server with another identity than the one noted has been restarted, or was a replica: invalidations may be missing from
# its data, so all values in it become invalid, before anybody has read one. A server that was emptied has another identity,
# too: what was said just before nobody can hear, and its number is counted anew.
# Returns {identity, number of the last message, its id}.
GREET = Script("""
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local noted = redis.call('GET', KEYS[1])
if not noted or string.sub(noted, 1, #run) ~= run then
    noted = run .. ARGV[1]
    redis.call('SET', KEYS[1], noted)
    redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
local last = redis.pcall('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)
return {noted, redis.call('GET', KEYS[3]) or '0', last[1] and last[1][1] or '0-0'}
""")
