"""The clock edge of history: what happens without anybody asking."""
