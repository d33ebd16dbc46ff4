"""One module that serves many fits, none of which influences the next."""
