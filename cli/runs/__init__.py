"""`cdds runs`: how exports go and went, and the commands on them."""
