-- The claims of older replicas need these indexes.

DROP INDEX scheduledjob.schedule_wake, scheduledjob.schedule_tenant;
