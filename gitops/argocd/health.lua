-- Health of a ScheduledJob for Argo CD.
--
-- It answers whether the spec has been taken and can be run, as Flux and `kubectl wait --for=condition=Ready` do. How
-- its runs end is not in it: a job that failed last night, or is suspended, must not hold up the sync that brings its
-- cure. That is told in the message, and by metrics and alerts.

local function condition(kind)
  for _, each in ipairs(obj.status.conditions or {}) do
    if each.type == kind then
      return each
    end
  end
  return {}
end

local function health(status, message)
  return {status = status, message = message}
end

if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "it is being deleted")
end
if obj.status == nil or obj.status.observedGeneration == nil then
  return health("Progressing", "the operator has not seen it yet")
end
if obj.metadata.generation ~= nil and obj.status.observedGeneration < obj.metadata.generation then
  return health("Progressing", "the operator has not seen this version yet")
end

local ready = condition("Ready")
if condition("Stalled").status == "True" then
  return health("Degraded", condition("Stalled").message)
end
if ready.status ~= "True" then
  return health("Progressing", ready.message or "")
end

local said = {ready.message}
if condition("Overdue").status == "True" then
  table.insert(said, "overdue: " .. (condition("Overdue").message or ""))
end
if condition("LastRunSucceeded").status == "False" then
  table.insert(said, "the last run failed: " .. (condition("LastRunSucceeded").message or ""))
end
return health("Healthy", table.concat(said, "; "))
