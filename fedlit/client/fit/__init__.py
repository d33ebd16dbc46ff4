"""One fit of one client: call, result, and Trainer."""
