-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)
/*!40101 SET NAMES utf8mb4 */;
DROP TABLE IF EXISTS `channels`;
CREATE TABLE `channels` (
  `id` bigint NOT NULL AUTO_INCREMENT,
  `type` bigint DEFAULT '0',
  `key` text,
  `status` bigint DEFAULT '1',
  `name` varchar(191) DEFAULT NULL,
  `weight` bigint unsigned DEFAULT '0',
  `created_time` bigint DEFAULT NULL,
  `base_url` varchar(191) DEFAULT '',
  `other` longtext,
  `balance` double DEFAULT NULL,
  `models` longtext,
  `group` varchar(32) DEFAULT 'default',
  `model_mapping` varchar(1024) DEFAULT '',
  `priority` bigint DEFAULT '0',
  `config` longtext,
  PRIMARY KEY (`id`),
  KEY `idx_channels_name` (`name`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
LOCK TABLES `channels` WRITE;
INSERT INTO `channels` VALUES
(1,1,'sk-canary-one\nsk-canary-two',1,'主渠道',0,1700000000,'','',1.5,'gpt-4o,gpt-4o-mini,gpt-4','default,vip','{\"gpt-4\":\"gpt-4-turbo\"}',10,''),
(2,3,'canary-azure',1,'Azure EU',0,1700000000,'https://example-eu.openai.azure.com','2024-10-21',0,'gpt-4o','vip','',0,''),
(3,14,'sk-ant-canary',1,'Claude',0,1700000000,'','',0,'claude-3-5-sonnet','vip','',0,''),
(4,33,'AK|SK|eu',1,'Bedrock',0,1700000000,'','',0,'claude-3-opus','default','',0,'{\"region\":\"eu\"}'),
(5,1,'sk-canary-off',3,'It\'s off',0,1700000000,'','',0,'gpt-4o','default','',0,'');
UNLOCK TABLES;
CREATE TABLE `abilities` (
  `group` varchar(32) NOT NULL,
  `model` varchar(191) NOT NULL,
  `channel_id` bigint NOT NULL,
  `enabled` tinyint(1) DEFAULT NULL,
  `priority` bigint DEFAULT '0',
  PRIMARY KEY (`group`,`model`,`channel_id`)
);
INSERT INTO `abilities` VALUES ('default','gpt-4o',1,1,10),('vip','gpt-4o',2,1,0);
CREATE TABLE `logs` (
  `id` bigint NOT NULL,
  `content` longtext
);
INSERT INTO `logs` VALUES (1,'INSERT INTO `tokens` VALUES (9); it\'s a trap');
CREATE TABLE `options` (
  `key` varchar(191) NOT NULL,
  `value` longtext,
  PRIMARY KEY (`key`)
);
INSERT INTO `options` VALUES ('ModelRatio','{\"gpt-4o\":1.25,\"gpt-4o-mini\":0.075,\"gpt-4-turbo\":5}'),('CompletionRatio','{\"gpt-4o\":4,\"gpt-4o-mini\":4}'),('GroupRatio','{\"default\":1,\"vip\":0.8}'),('SMTPToken','canary-smtp');
CREATE TABLE `tokens` (
  `id` bigint NOT NULL AUTO_INCREMENT,
  `user_id` bigint DEFAULT NULL,
  `key` char(48) DEFAULT NULL,
  `status` bigint DEFAULT '1',
  `name` varchar(191) DEFAULT NULL,
  `expired_time` bigint DEFAULT '-1',
  `remain_quota` bigint DEFAULT '0',
  `unlimited_quota` tinyint(1) DEFAULT '0',
  `used_quota` bigint DEFAULT '0',
  `models` text,
  `subnet` varchar(191) DEFAULT '',
  PRIMARY KEY (`id`),
  UNIQUE KEY `idx_tokens_key` (`key`)
);
INSERT INTO `tokens` VALUES
(1,2,'canaryKey000000000000000000000000000000000000001',1,'backend',-1,123456,0,0,'gpt-4o,gpt-4o-mini','10.1.2.3/8'),
(2,2,'canaryKey000000000000000000000000000000000000002',1,'',4102444800,0,1,0,NULL,''),
(3,3,'canaryKey000000000000000000000000000000000000003',1,'vip',-1,0,1,0,'',''),
(4,2,'canaryKey000000000000000000000000000000000000004',2,'off',-1,0,1,0,'',''),
(5,2,'canaryKey000000000000000000000000000000000000005',1,'spent',-1,0,0,0,'',''),
(6,4,'canaryKey000000000000000000000000000000000000006',1,'of a user switched off',-1,0,1,0,'',''),
(7,2,'canaryKey000000000000000000000000000000000000007',1,'odd net',-1,0,1,0,'','office');
CREATE TABLE `users` (
  `id` bigint NOT NULL AUTO_INCREMENT,
  `username` varchar(191) DEFAULT NULL,
  `password` longtext NOT NULL,
  `role` bigint DEFAULT '1',
  `status` bigint DEFAULT '1',
  `quota` bigint DEFAULT '0',
  `used_quota` bigint DEFAULT '0',
  `group` varchar(32) DEFAULT 'default',
  PRIMARY KEY (`id`)
);
INSERT INTO `users` VALUES (1,'root','canary-hash',100,1,500000000,0,'default'),(2,'ada','canary-hash',1,1,5000000,0,'default'),(3,'bob','canary-hash',1,1,2500001,0,'vip'),(4,'eve','canary-hash',1,2,1,0,'default');
