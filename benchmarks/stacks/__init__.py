"""Complete stacks side by side, each as its own documents recommend, over HTTPS: their speed, and what they lose."""
