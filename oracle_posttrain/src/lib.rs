//! oracle_posttrain
