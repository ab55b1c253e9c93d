"""The cache: results of functions, kept in memory until their time is over, they are invalidated, or room is needed."""
