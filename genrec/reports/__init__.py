"""The report of a comparison as one HTML file: its content as plain values, its charts as Vega-Lite, and the page."""
