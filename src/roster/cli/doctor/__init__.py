"""What `roster doctor` looks at: each module examines one thing and returns findings; none of them writes anything."""
