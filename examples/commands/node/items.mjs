// Bids by item: of a slice out of bids and the auctions they are on, of partials out of what the slices gave.
import { rows, write } from "./rows.mjs";

const least = BigInt(process.env.HINDSCAN_PARAM_LEAST ?? "0");
const found = new Map();

function add(item, bids, top, first) {
  const one = found.get(item) ?? { item, bids: 0n, top: null, first: null };
  one.bids += bids;
  if (top !== null && (one.top === null || top > one.top)) one.top = top;
  if (first !== null && (one.first === null || first < one.first)) one.first = first;
  found.set(item, one);
}

if (process.env.HINDSCAN_STEP === "slice") {
  const items = new Map();
  for await (const auction of rows(process.env.HINDSCAN_TABLE_AUCTIONS)) items.set(auction.id, auction.item);
  for await (const bid of rows()) {
    const price = BigInt(bid.price);
    if (price >= least) add(items.get(bid.auction) ?? null, 1n, price, bid.date_time);
  }
} else {
  for await (const one of rows()) add(one.item, BigInt(one.bids), one.top && BigInt(one.top), one.first);
}
console.error(`${found.size} items`);
for (const key of [...found.keys()].sort()) write(found.get(key));
