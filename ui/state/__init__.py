"""View-models: what the pages show, folded from answers and events. No widget, no input or output."""
