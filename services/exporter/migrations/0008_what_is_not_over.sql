-- Whatever the program tries: runs in progress, files that are there and events that are not yet sent stay.
CREATE POLICY ended ON runs AS RESTRICTIVE FOR DELETE TO exporter_worker USING (state NOT IN ('queued', 'running'));
CREATE POLICY gone ON artifacts AS RESTRICTIVE FOR DELETE TO exporter_worker USING (state = 'deleted');
CREATE POLICY sent ON outbox AS RESTRICTIVE FOR DELETE TO exporter_worker USING (published_at IS NOT NULL);
