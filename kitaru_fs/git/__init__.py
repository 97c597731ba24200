"""git itself, run and prepared so that nothing an agent planted is ever executed."""
