"""Finding objects with YOLO or YOLOE segmentation."""
