"""Charts of what streams: Bokeh figures on one shared source."""
