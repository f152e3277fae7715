"""What the sink is for: how much positions mix, with the sink and with it taken away."""
