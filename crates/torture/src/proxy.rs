//! A TCP proxy on a link, which cuts, swallows, delays and slices what goes through it.
