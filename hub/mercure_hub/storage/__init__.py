"""The durable history of updates: ``store`` queues and orders, a link such as ``sqlite`` stores."""
