"""Everything between a parsed request and its answer; knows no HTTP."""
