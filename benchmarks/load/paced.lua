-- Many users who think between two requests, so that the rate is about the same whatever the answers do:
-- wrk … -s load/paced.lua URL, MEAN (ms of thought, exponentially distributed) in the environment.
-- Arrivals of that many users come as a Poisson process does, and one who waits for an answer holds up no other.
dofile('load/report.lua')

local mean = tonumber(os.getenv('MEAN'))

function init()
    math.randomseed(1)
end

function delay()
    return math.floor(-mean * math.log(1 - math.random()) + 0.5)
end
