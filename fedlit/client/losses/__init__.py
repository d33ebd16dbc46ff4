"""The loss over a client's shard, and the contrastive loss."""
