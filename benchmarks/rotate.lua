-- For wrk: POST prepared bodies in turn, and write every latency that it recorded as one line "microseconds count".
-- Arguments: folder of bodies 0, 1, 2 ...; how many; their content type.

local requests, turn = {}, 0

function init(args)
   local headers = { ["Content-Type"] = args[3] }
   for i = 0, tonumber(args[2]) - 1 do
      local file = assert(io.open(args[1] .. "/" .. i, "rb"))
      requests[i] = wrk.format("POST", nil, headers, file:read("*a"))
      file:close()
   end
end

function request()
   turn = (turn + 1) % (#requests + 1)
   return requests[turn]
end

function done(summary, latency)
   local errors = summary.errors
   -- os.clock() is the CPU time of this process. The line says that the load has ended, so it may not wait in a buffer.
   print(string.format("ended %d %d %f %d %d %d", summary.requests, summary.duration, os.clock(), errors.status,
                       errors.timeout, errors.connect + errors.read + errors.write))
   io.stdout:flush()
   for i = 1, #latency do
      print(string.format("latency %d %d", latency(i)))
   end
end
