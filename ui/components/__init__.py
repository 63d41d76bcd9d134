"""The page's own components: JavaScript that draws what Python sends it as messages."""
