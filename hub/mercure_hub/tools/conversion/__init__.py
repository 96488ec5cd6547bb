"""Settings of other hubs, turned into ours. ``mercure-hub convert`` prints them."""
