"""Privacy mechanisms: stages of the channel that clip updates and add noise."""
