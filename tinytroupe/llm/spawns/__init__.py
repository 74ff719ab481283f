"""While a run is active, every spawn carries its branch along; nothing is patched otherwise."""
