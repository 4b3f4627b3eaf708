"""What can go wrong with the source, with the store and at the moment of a cancellation; one stack for all of it."""
