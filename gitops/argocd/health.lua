-- Health of a ScheduledJob for Argo CD.
--
-- It says whether the operator has accepted the spec and can run it, as the condition Ready does. It does not depend on
-- how runs end: a job that failed last night, or is suspended, must not block the sync that brings the fix. The message,
-- metrics and alerts report failures.

local function condition(kind)
  for _, candidate in ipairs(obj.status.conditions or {}) do
    if candidate.type == kind then
      return candidate
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

local messages = {ready.message}
if condition("Overdue").status == "True" then
  table.insert(messages, "overdue: " .. (condition("Overdue").message or ""))
end
if condition("LastRunSucceeded").status == "False" then
  table.insert(messages, "the last run failed: " .. (condition("LastRunSucceeded").message or ""))
end
return health("Healthy", table.concat(messages, "; "))
