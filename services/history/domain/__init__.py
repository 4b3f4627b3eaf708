"""The rules of history, free of input and output: what events say, and what can be read from that."""
