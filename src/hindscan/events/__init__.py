"""Something happened now: events, their wire formats, filters, triggers and the ways in."""
