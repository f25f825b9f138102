"""One file per foreign data set, each turning its folder into a `Dataset`."""
