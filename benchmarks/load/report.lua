-- wrk's result as one line of JSON: exact counts and percentiles, which its own text rounds.
-- With BODY in the environment each request is a POST of so many bytes.
local body = tonumber(os.getenv('BODY')) or 0
if body > 0 then
    wrk.method, wrk.body = 'POST', string.rep('x', body)
end

function done(summary, latency, _)
    local errors = summary.errors
    io.write(string.format(
        '\n{"requests":%d,"seconds":%.6f,"p99":%.6f,"errors":%d}\n',
        summary.requests, summary.duration / 1e6, latency:percentile(99) / 1e6,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout
    ))
end
