"""From the releases of data sets, and from people's own annotations, to shards that training reads."""
