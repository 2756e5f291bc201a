-- Average closing price of each category, in cents.
--
-- One row per category, ordered by category: auctions with bids, their average and highest closing price. The closing price of an auction is its
-- highest bid. A job in SQL: each statement sees the $parameters and tables it names, and nothing else; so another `least_auctions` recomputes no slice.
--
-- /// job
-- history = "bids"
--
-- [tables]
-- auctions = "auctions"
--
-- [parameters]
-- least_auctions = { type = "int(ge=1)", default = 1, doc = "Categories with fewer auctions are left out." }
-- ///

-- name: slice
SELECT auction, max(price) AS price
FROM bids
GROUP BY auction
ORDER BY auction

-- name: combine
SELECT auction, max(price) AS price
FROM partials
GROUP BY auction
ORDER BY auction

-- name: finish
SELECT category, count(*) AS auctions, avg(price) AS average, max(price) AS top
FROM combined JOIN auctions ON auctions.id = combined.auction
GROUP BY category
HAVING count(*) >= $least_auctions
ORDER BY category
