"""What a trained model is measured by: a file a measure, each with `evaluate(predictor, source, ...)`."""
