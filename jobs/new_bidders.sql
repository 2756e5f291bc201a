-- New bidders of each week: those whose first bid of all falls into it.
--
-- One row per week, which begins on Monday, 00:00 UTC; weeks without new bidders are left out. `bidders` counts all until the end of the week.
--
-- /// job
-- history = "bids"
--
-- [parameters]
-- category = { type = "str | None", doc = "Which category; null: all." }
-- ///

-- name: slice
SELECT bidder, min(date_time) AS first
FROM bids
WHERE $category IS NULL OR category = $category
GROUP BY bidder
ORDER BY bidder

-- name: combine
SELECT bidder, min(first) AS first
FROM partials
GROUP BY bidder
ORDER BY bidder

-- name: finish
SELECT date_trunc('week', first) AS week, count(*) AS new_bidders, sum(count(*)) OVER (ORDER BY date_trunc('week', first))::BIGINT AS bidders
FROM combined
GROUP BY week
ORDER BY week
