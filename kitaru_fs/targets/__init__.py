"""From a TARGET to the flow that it names, and to the modules that it is made of."""
