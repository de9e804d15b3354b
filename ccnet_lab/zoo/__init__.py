"""Zoo: what is known of the configurations as published, their logs and their cards; it trains nothing and draws nothing."""
