"""Jobs that make no asset: predict one video, promote a model, prune the store."""
