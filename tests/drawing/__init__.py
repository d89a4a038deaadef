"""Draw the dashboards with Grafana's own components, in Chromium."""
