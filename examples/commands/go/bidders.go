// Counts what every bidder bid on one category: bids as lines of JSON in, one line per bidder out.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
)

type bid struct {
	Bidder   int64  `json:"bidder"`
	Price    int64  `json:"price"`
	Category string `json:"category"`
	DateTime string `json:"date_time"`
}

type bidder struct {
	Bidder int64   `json:"bidder"`
	Bids   int64   `json:"bids"`
	Total  int64   `json:"total"`
	Last   *string `json:"last"`
}

func main() {
	category := os.Getenv("HINDSCAN_PARAM_CATEGORY")
	found := map[int64]*bidder{}
	in := json.NewDecoder(bufio.NewReaderSize(os.Stdin, 1<<20))
	for in.More() {
		var one bid
		if err := in.Decode(&one); err != nil {
			fmt.Fprintln(os.Stderr, "a bid that is none:", err)
			os.Exit(1) // the slice fails, and the message shows what was said
		}
		if one.Category != category {
			continue
		}
		b := found[one.Bidder]
		if b == nil {
			b = &bidder{Bidder: one.Bidder}
			found[one.Bidder] = b
		}
		b.Bids++
		b.Total += one.Price
		if time := one.DateTime; b.Last == nil || time > *b.Last {
			b.Last = &time
		}
	}
	// In a fixed order: a map has none, and the same slice must give the same bytes.
	ids := make([]int64, 0, len(found))
	for id := range found {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	lines := json.NewEncoder(out)
	for _, id := range ids {
		if err := lines.Encode(found[id]); err != nil {
			panic(err)
		}
	}
}
