"""What to look at: snapshots of Kafka topics and Parquet data sets, their slices and readers."""
